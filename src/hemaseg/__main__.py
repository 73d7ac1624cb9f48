"""`python -m hemaseg`."""

from hemaseg.cli import main

if __name__ == "__main__":
    main()
