"""The networks: one file each, all mapping `(N, 1, H, W)` images to `(N, 1, H, W)` logits.

To add an architecture, write one file beside these and one line in `catalogue.MODELS`; the contract
suite in `tests/test_models.py` then tests it. No model holds a sigmoid: that lives in
`training.losses` and `prediction.predict`.
"""
