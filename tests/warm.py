"""Runs one Snakemake after another for `trees.py`, each in a fork of this process, which has
imported what all of them import: that is most of a dry run.

    python warm.py    reads on each line a JSON object: `arguments`, `variables`, and `said`, the
                      file for what is printed; answers with the exit status
"""

import json
import os
import sys
import traceback

import snakemake.cli
import transformers.models.llama.configuration_llama  # noqa: F401

import atu.attacks
import atu.config.load
import atu.methods  # noqa: F401


def run(arguments, variables, said):
    """Exit status of `snakemake <arguments>`, run in this process."""
    for stream, file in ((0, os.devnull), (1, said), (2, said)):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND), stream)
    os.environ |= variables
    sys.argv = ["snakemake", *arguments]
    try:
        snakemake.cli.main(arguments)
    except SystemExit as ended:
        return ended.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main():
    """Until the input ends."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = run(**json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
