"""`python -m he_agg` is `he-agg`, for when the script is not on the path."""

from he_agg.host.commands import main

if __name__ == "__main__":
    main()
