"""The command line: parse, call one function, print. Data goes to standard output, log output to standard error."""

from splite_deploy.cli import bench as bench
from splite_deploy.cli import calibrate as calibrate
from splite_deploy.cli import compact as compact
from splite_deploy.cli import compile as compile
from splite_deploy.cli import completion as completion
from splite_deploy.cli import cpp as cpp
from splite_deploy.cli import delta as delta
from splite_deploy.cli import demo as demo
from splite_deploy.cli import doctor as doctor
from splite_deploy.cli import export as export
from splite_deploy.cli import fit as fit
from splite_deploy.cli import fleet as fleet
from splite_deploy.cli import init as init
from splite_deploy.cli import inspect as inspect
from splite_deploy.cli import install as install
from splite_deploy.cli import run as run
from splite_deploy.cli import setup_tflite as setup_tflite
from splite_deploy.cli import verify as verify
from splite_deploy.cli.app import main

__all__ = ["main"]
