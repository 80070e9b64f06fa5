"""What the check_*.py share: running pq, counting what went wrong, their end."""
import argparse
import os
import subprocess

import torch
import transformers

TOP = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))


class Tools:
    def __init__(self, bin_dir):
        self.bin = os.path.abspath(bin_dir)

    def run(self, tool, *arguments):
        """Runs it from the top of the tree; what it says on stdout."""
        r = subprocess.run([os.path.join(self.bin, tool), *map(str, arguments)], text=True,
                           capture_output=True, cwd=TOP)
        if r.returncode:
            raise RuntimeError(f"{tool}: exit {r.returncode}, {r.stderr.strip()}")
        return r.stdout


class Report:
    def __init__(self):
        self.failed = 0

    def line(self, ok, what, detail=""):
        self.failed += not ok
        print(f"{'ok  ' if ok else 'FAIL'} {what}{': ' + detail if detail else ''}", flush=True)

    def guard(self, what, check, *args):
        """An exception is a failed check, not the end of the run."""
        try:
            check(self, what, *args)
        except Exception as e:
            self.line(False, what, f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}")

    def end(self):
        """The exit status."""
        print(f"{self.failed} failed" if self.failed else "all equal")
        return 1 if self.failed else 0


def quiet():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)  # with more, f32 sums differ from run to run


def start(doc):
    """Of a script whose one argument is where the programs are."""
    p = argparse.ArgumentParser(description=doc.splitlines()[0])
    p.add_argument("bin_dir")
    a = p.parse_args()
    quiet()
    return Tools(a.bin_dir), Report()
