"""Fuzzes the native core under sanitizers: ``make fuzz-core``, or a few targets by name.

::

    clang, libFuzzer   a target for each part of the core that reads bytes or settings
    any C compiler     spoiled golden streams through parser and codec (``mutations``)

Both with the address and the undefined-behaviour sanitizer. Prints one line a target; what is found
lies in ``build/fuzz/faults``, what was learned in ``build/fuzz/learned`` for the next time.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CORE, BUILD = ROOT / "cdvision" / "core", ROOT / "build" / "fuzz"
SEEDS, LEARNED, FAULTS = BUILD / "seeds", BUILD / "learned", BUILD / "faults"
# Longest input by target: what decoding takes grows with it.
TARGETS = {
    "stream": 4096,
    "rans": 4096,
    "range": 2048,
    "tables": 2048,
    "codec_file": 8192,
    "decode": 2048,
    "boxes": 4096,
    "masks": 2048,
    "network": 8192,
}
MUTATIONS = "mutations"
# Not -fwrapv, which the library is built with: what overflows is found and not defined.
FLAGS = ["-std=c11", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all", f"-I{CORE}"]
SANITIZERS = "address,undefined,float-cast-overflow"
# Inputs may ask for more memory than there is: the core has to take no for an answer.
OPTIONS = {"ASAN_OPTIONS": "allocator_may_return_null=1", "UBSAN_OPTIONS": "print_stacktrace=1"}


def main() -> None:
    """Build and run the targets that are asked for; exit 1 where one of them found something."""
    parser = argparse.ArgumentParser(description="fuzz the native core")
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, MUTATIONS, []])
    parser.add_argument("--seconds", type=int, default=30, help="for each target of libFuzzer")
    parser.add_argument("--count", type=int, default=100_000, help="mutated streams")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the mutations")
    options = parser.parse_args()
    wanted = options.targets or [*TARGETS, MUTATIONS]
    for folder in (LEARNED, FAULTS):
        folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, str(HERE / "make_corpus.py"), str(SEEDS)], check=True)
    clang, results = clang_with_fuzzer(), []
    fuzzed = [target for target in wanted if target != MUTATIONS]
    if fuzzed and clang is None:
        print("fuzz-core: skipped libFuzzer: no clang with it (Debian: clang libclang-rt-14-dev)")
    elif fuzzed and clang is not None:
        objects = compile_core(clang, "clang", ["-O1", f"-fsanitize=fuzzer-no-link,{SANITIZERS}"])
        results += [fuzz(clang, objects, target, options.seconds) for target in fuzzed]
    if MUTATIONS in wanted:
        results.append(mutate(options.count, options.seed))
    sys.exit(0 if all(results) else 1)


def clang_with_fuzzer() -> str | None:
    """Return the command of a clang that links libFuzzer: $CLANG, or the first that is there."""
    names = ["clang", *(f"clang-{version}" for version in range(25, 12, -1))]
    probe = BUILD / "probe.c"
    probe.write_text("int LLVMFuzzerTestOneInput(const char *b, long n) { return b && n < 0; }\n")
    for name in filter(None, [os.environ.get("CLANG"), *filter(shutil.which, names)]):
        command = [name, "-fsanitize=fuzzer,address", str(probe), "-o", str(BUILD / "probe")]
        if subprocess.run(command, capture_output=True).returncode == 0:
            return name
    return None


def compile_core(compiler: str, name: str, flags: list[str]) -> list[Path]:
    """Compile the core's files once for all targets."""
    folder = BUILD / name
    folder.mkdir(exist_ok=True)
    sources = sorted(CORE.glob("*.c"))
    for source in sources:
        output = ["-c", str(source), "-o", str(folder / f"{source.stem}.o")]
        subprocess.run([compiler, *FLAGS, *flags, *output], check=True)
    return [folder / f"{source.stem}.o" for source in sources]


def link(compiler: str, objects: list[Path], target: str, flags: list[str]) -> Path:
    """Compile one target and link it with the core."""
    program = BUILD / f"fuzz-{target}"
    files = [str(HERE / f"{target}.c"), *map(str, objects), "-lm", "-o", str(program)]
    subprocess.run([compiler, *FLAGS, *flags, *files], check=True)
    return program


def fuzz(clang: str, objects: list[Path], target: str, seconds: int) -> bool:
    """Run one target of libFuzzer; returns whether it found nothing."""
    program = link(clang, objects, target, ["-O1", f"-fsanitize=fuzzer,{SANITIZERS}"])
    learned, seeds, artefacts = LEARNED / target, SEEDS / target, FAULTS / f"{target}-"
    for folder in (learned, seeds):
        folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [
            str(program), str(learned), str(seeds), f"-max_total_time={seconds}",
            f"-max_len={TARGETS[target]}", "-timeout=60", "-print_final_stats=1",
            f"-artifact_prefix={artefacts}",
        ],
        env={**os.environ, **OPTIONS, "CDV_FUZZ_CODEC": str(SEEDS / "codec.cdvc")},
        stderr=subprocess.PIPE, text=True, errors="replace",
    )  # fmt: skip
    found = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    runs = f"{int(found[1]) if found else 0:,} executions, {covered[-1] if covered else 0} edges"
    return told(target, done, f"{runs}, {seconds} s")


def mutate(count: int, seed: int) -> bool:
    """Decode spoiled golden streams; returns whether nothing was found."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("gcc", "clang", "cc")), None)
    if compiler is None:
        print("fuzz-core mutations: skipped: no C compiler (Debian: gcc libc6-dev)")
        return True
    flags = ["-O2", f"-fsanitize={SANITIZERS}"]
    program = link(compiler, compile_core(compiler, "any", flags), MUTATIONS, flags)
    streams = sorted((SEEDS / "decode").iterdir())
    arguments = [str(count), str(seed), str(SEEDS / "codec.cdvc"), *map(str, streams)]
    started = time.monotonic()
    done = subprocess.run(
        [str(program), *arguments],
        env={**os.environ, **OPTIONS}, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    seconds = time.monotonic() - started
    return told(MUTATIONS, done, f"{done.stdout.strip()}, {seconds:.0f} s, seed {seed}")


def told(target: str, done: subprocess.CompletedProcess[str], figures: str) -> bool:
    """Print a target's one line; where something was found, the sanitizer's report as well."""
    sound = done.returncode == 0
    if not sound:
        (FAULTS / f"{target}.log").write_text(done.stderr)
        print("\n".join(done.stderr.splitlines()[-60:]))
    outcome = "nothing found" if sound else f"FAILED, see {FAULTS}"
    print(f"fuzz-core {target}: {outcome} ({figures})", flush=True)
    return sound


if __name__ == "__main__":
    main()
