"""Updates of installed bundles: the store on a device with its two slots, and what is installed into it."""

from splite_deploy.bundle.manifest import STORE
from splite_deploy.updates.store import Slot, State, Store
from splite_deploy.updates.update_file import BundleFolder, UpdatedFile, UpdateFile, UpdateHeader, make_update

__all__ = [
    "STORE",
    "BundleFolder",
    "Slot",
    "State",
    "Store",
    "UpdateFile",
    "UpdateHeader",
    "UpdatedFile",
    "make_update",
]
