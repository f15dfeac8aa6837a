"""`python -m audit_platform_tests.soak [kills] [seed]`: see `kills.py`."""

from __future__ import annotations

import sys

from audit_platform_tests.soak.kills import main

sys.exit(main())
