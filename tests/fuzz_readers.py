"""Breaks small data sets at random, and reads them: python tests/fuzz_readers.py [--minutes 10] [--seed 0]

Whatever is in the files, reading gives records or one `ValueError`. Anything else, a crash of the process or a reading
that does not end is told with its seed (`--seed N --once` repeats it), and is a bug. What it finds becomes a row of
test_real_files.py. It is no test itself: it takes as long as it is given.
"""

import argparse
import copy
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import real_files as make

LONGEST = 20  # seconds for one case
CASES = 60  # in one process
VALUES = [
    None, True, 0, -1, 1, 2, 3.5, 255, 256, 65536, 2**31, 2**63, 10**30, -(10**30), float("nan"), float("inf"), 1e308,
    "", "0", "a.png", "../a.png", "/etc/passwd", "x" * 3000, "\ud800", "\0", [], [[]], {}, [None], [0], {"id": 0},
    [[1, 2, 3]],
]  # fmt: skip


def build(rng: random.Random, root: Path) -> None:
    kind = rng.choice(["instances", "instances", "panoptic", "panoptic", "folder", "voc", "cityscapes"])
    if kind == "instances":
        images = [make.entry(0, "a.png"), make.entry(1, "b.png")]
        counts = {"size": list(make.SIZE), "counts": [10, 50, make.SIZE[0] * make.SIZE[1] - 60]}
        annotations = [make.annotation(), make.annotation(2, 1, segmentation=counts, bbox=[1, 1, 4, 4])]
        for split in ("train", "valid")[: rng.randint(1, 2)]:
            make.instances(root, images, annotations, files=("a.png", "b.png"), split=split)
    elif kind == "voc":
        make.voc(root, rng.choice([None, "background:0,0,0::\nroad:128,64,128::\n"]))
    else:
        getattr(make, kind)(root)


def break_json(rng: random.Random, file: Path) -> None:
    """Replace, remove or repeat some values of a JSON file, anywhere in it."""
    try:
        content = json.loads(file.read_text())
    except ValueError:
        return
    for _ in range(rng.randint(1, 3)):
        places = []

        def walk(value, places=places):
            for key in list(value) if isinstance(value, dict) else range(len(value)):
                places.append((value, key))
                if isinstance(value[key], (dict, list)):
                    walk(value[key])

        if isinstance(content, (dict, list)):
            walk(content)
        if not places:
            return
        parent, key = rng.choice(places)
        way = rng.choice(["replace", "replace", "remove", "repeat"])
        if way == "replace":
            parent[key] = copy.deepcopy(rng.choice(VALUES))
        elif way == "remove":
            del parent[key]
        elif isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
    file.write_text(json.dumps(content), errors="surrogatepass")


def break_bytes(rng: random.Random, file: Path) -> None:
    data = bytearray(file.read_bytes())
    for _ in range(rng.randint(1, 6)):
        if not data:
            break
        place = rng.randrange(len(data))
        way = rng.choice(["flip", "cut", "insert", "drop"])
        if way == "flip":
            data[place] ^= 1 << rng.randrange(8)
        elif way == "cut":
            del data[place:]
        elif way == "insert":
            data[place:place] = rng.randbytes(rng.randint(1, 9))
        else:
            del data[place : place + rng.randint(1, 40)]
    file.write_bytes(data)


def break_names(rng: random.Random, file: Path) -> None:
    way = rng.choice(["remove", "rename", "folder", "copy"])
    if way == "remove":
        file.unlink()
    elif way == "rename":
        file.rename(file.with_name(rng.choice(["b.png", "a.jpg", ".a.png", "a_mask.png", "A.PNG", "ä.png"])))
    elif way == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.with_name("copy" + file.suffix).write_bytes(file.read_bytes())


def run_case(seed: int) -> str:
    """`read` or `refused`, as one broken data set should be, or what went wrong."""
    from seggen_hf.data.doctor import examine
    from seggen_hf.data.sources.layout import splits_of
    from seggen_hf.data.sources.load import load_records

    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        build(rng, root)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        for _ in range(rng.randint(1, 3)):
            file = rng.choice([path for path in files if path.is_file()] or files)
            if not file.is_file():
                continue
            ways = [break_json] * 6 if file.suffix == ".json" else [break_bytes] * 2 + [break_names]
            rng.choice([*ways, break_bytes])(rng, file)
        signal.alarm(LONGEST)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                examine(root)
                for split in splits_of(root):
                    for record in load_records(root, split, cache_dir=Path(folder) / "cache"):
                        record["segmentation_map"].load()
        except ValueError:
            return "refused"
        except TimeoutError:
            return f"seed {seed} takes more than {LONGEST} s"
        except BaseException:
            return f"seed {seed}\n{traceback.format_exc()}"
        finally:
            signal.alarm(0)
    return "read"


def _work(first: int) -> None:
    def stop(number, frame):
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    for seed in range(first, first + CASES):
        print(f"at {seed}", flush=True)
        print(f"FOUND {json.dumps(run_case(seed))}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--once", action="store_true", help="Only the case of --seed.")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        return _work(arguments.seed)
    if arguments.once:
        print(run_case(arguments.seed))
        return None
    seed, end, found = arguments.seed, time.monotonic() + 60 * arguments.minutes, []
    ended = {"read": 0, "refused": 0}
    with tempfile.TemporaryDirectory() as cache:
        while time.monotonic() < end:
            command = [sys.executable, __file__, "--work", "--seed", str(seed)]
            environment = os.environ | {"HF_DATASETS_CACHE": cache, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            lines = done.stdout.splitlines()
            for line in lines:
                told = json.loads(line.removeprefix("FOUND ")) if line.startswith("FOUND ") else None
                if told in ended:
                    ended[told] += 1
                elif told:
                    found.append(told)
            last = int([line for line in lines if line.startswith("at ")][-1].split()[1]) if lines else seed
            if done.returncode:
                found.append(f"seed {last} ends the process with {done.returncode}\n{done.stderr[-2000:]}")
            seed = last + 1
            counts = f"{ended['read']} read, {ended['refused']} refused"
            print(f"\r{seed - arguments.seed} cases: {counts}, {len(found)} bugs", end="", flush=True)
    print()
    print("\n\n".join(found) or "Nothing was found.")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
