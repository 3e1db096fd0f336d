"""`python -m atu`."""

from atu.cli import main

if __name__ == "__main__":
    main()
