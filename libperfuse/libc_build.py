"""Makes libperfuse/_libc_cffi.py, the generated plain-Python binding to libc: `python libperfuse/libc_build.py`."""

from pathlib import Path

from cffi import FFI

SIGNATURES = """
int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data);
int umount2(const char *target, int flags);
"""


def build() -> FFI:
    """The declarations, ready to be written out."""
    ffi = FFI()
    ffi.cdef(SIGNATURES)
    ffi.set_source("libperfuse._libc_cffi", None)
    return ffi


if __name__ == "__main__":
    build().emit_python_code(str(Path(__file__).with_name("_libc_cffi.py")))
