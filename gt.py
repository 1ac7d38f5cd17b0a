"""GT's one program. Standard library calls are made cooperative before anything else is imported."""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

from gtapp.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
