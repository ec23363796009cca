"""`python -m haiftrace`: the same as `haiftrace`."""

from haiftrace.cli import main

if __name__ == "__main__":
    main()
