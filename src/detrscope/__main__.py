"""`python -m detrscope`: the command line."""

from detrscope.cli import main

if __name__ == "__main__":
    main()
