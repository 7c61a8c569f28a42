"""Lets ``python -m splite_deploy`` do what ``splite-deploy`` does."""

from splite_deploy.cli import main

if __name__ == "__main__":
    main()
