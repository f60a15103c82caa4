"""`python -m cdvision` is the command line."""

from cdvision.cli import main

if __name__ == "__main__":
    main()
