"""What checks annotations while tests run: see `addopts` in setup.cfg."""

import beartype

# A whole number may stand for a float, as type checkers have it.
checked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
