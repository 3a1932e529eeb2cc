"""perfused: a daemon that owns the kernel's side of FUSE and relays it to filesystems that call perfuse_mount()."""

__version__ = "0.1.0"
