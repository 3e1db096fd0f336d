"""`python -m atu`: the command line, in this process or in one that a fork server has ready."""

import sys

from atu.distributed.forkserver import hand_over

if __name__ == "__main__":
    status = hand_over()
    if status is not None:
        sys.exit(status)
    # Here, since it takes longer to import than a job to hand over.
    from atu.cli import main

    main()
