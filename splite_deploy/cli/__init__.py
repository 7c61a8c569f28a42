"""The command line: parse, call one function, print. Standard output is data, standard error is talk."""

from splite_deploy.cli import bench as bench
from splite_deploy.cli import compile as compile
from splite_deploy.cli import device as device
from splite_deploy.cli import host as host
from splite_deploy.cli.app import main

__all__ = ["main"]
