"""What changes numbers beside code, config and seed: versions, device, settings of JAX.

It is stored with results that are continued later, and compared before they are.
"""

from importlib import metadata

import jax

# Packages that simulate, draw or compute.
PACKAGES = ("jax", "jaxlib", "mujoco", "mujoco-mjx", "numpy")
SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision")


def version_of(package: str) -> str:
    """Version of an installed package, or "absent"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def conditions() -> dict[str, str]:
    """Versions of `PACKAGES`, the kind of device, and JAX's settings, by name."""
    found = {name: version_of(name) for name in PACKAGES}
    found["device"] = jax.devices()[0].device_kind
    found |= {name: str(getattr(jax.config, name)) for name in SETTINGS}
    return found
