"""`python -m optiinfra_db` is `optiinfra-db`."""

from optiinfra_db.cli import main

if __name__ == "__main__":
    main()
