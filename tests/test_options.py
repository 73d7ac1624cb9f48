import pytest

from hemaseg.engines.options import EngineOptions
from hemaseg.errors import ConfigError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"engine": "tensorrt"}, 'engine "tensorrt", expected one of auto, torch, openvino'),
        ({"precision": "int8"}, 'precision "int8", expected one of fp32, bf16'),
    ],
)
def test_unknown_words_are_refused(values: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EngineOptions(**values)
