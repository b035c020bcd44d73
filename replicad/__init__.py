"""replicad keeps replicas of virtual-machine disks on SMB 3 shares, with recovery points."""

__version__ = "0.1.0"
