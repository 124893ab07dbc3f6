"""Write the measured figures of finished runs into docs/results.md: python benchmarks/update_readme.py RUN [RUN ...]

The figures come from each run's results.json and stage markers; nothing is typed. What the page says of runs of other
recipes stays. README.md shows one of them, copied from there.
"""

import argparse
import re
import shutil
from pathlib import Path

from scipy.stats import ttest_ind

from seggen_hf.config import SCENES, load_recipe
from seggen_hf.pictures.markdown import marked
from seggen_hf.pictures.markdown import table as markdown_table
from seggen_hf.runs.report import list_costs, list_scores
from seggen_hf.runs.results import percent, read_results
from seggen_hf.storage.files import write_text
from seggen_hf.tasks import task_of

ROOT = Path(__file__).parents[1]
README_SHOWS = "quickstart"  # what everybody can run
SECTION = re.compile(r"^(?=\*\*.+?\*\*: )", re.MULTILINE)


def describe_run(run: Path) -> str:
    """One run as Markdown: its command, a table of arms by test split, and what it took.

    Raises: `ValueError` if the run has no results.
    """
    results = read_results(run)
    if results is None:
        raise ValueError(f"{run} has no results.json; run the stage evaluate first.")
    tables = list_scores(results["scores"])
    arms = list(dict.fromkeys(row["arm"] for table in tables for row in table["rows"]))
    task = task_of(results["scores"])
    metric_name = task.metric_name
    # PQ means over stuff too, which is easy; what people ask of instances stands beside it.
    more = [name for name in ("PQ_things", "AP", "AP50") if name in task.more]
    seeds = max(len(row["seeds"]) for table in tables for row in table["rows"])
    lines = [
        f"**{results['recipe']}**: {results['dataset']}, {seeds} seed{'s' if seeds > 1 else ''}, {metric_name} in %"
        + (" (mean; range over seeds in brackets)" if seeds > 1 else ""),
        "",
    ]
    header = ["arm"]
    for table in tables:
        header += [f"{table['split']} ({table['num_images']} images)", *(task.more_titles[n] for n in more)]
    rows = []
    for arm in arms:
        cells = [f"{arm}: {results['arms'][arm]}"]
        for table in tables:
            row = next((row for row in table["rows"] if row["arm"] == arm), None)
            cell = percent(row["mean"]) if row else "–"
            cells.append(f"{cell} ({percent(row['range'])})" if row and row["range"] is not None else cell)
            cells += [percent(row["more"][name]) if row else "–" for name in more]
        rows.append(cells)
    lines += markdown_table(header, rows)
    costs, jobs = list_costs(run), load_recipe(run / "recipe.yaml").evaluation.jobs
    together = f", {jobs} at a time" if jobs > 1 else ""
    versions = results["versions"]
    lines += [
        "",
        results["verdict"] + describe_chance(tables),
        "",
        f"`{results['command'] or 'seggen run ' + results['recipe']}`, recipe hash {results['recipe_hash']}: "
        f"{sum(row['seconds'] for row in costs) / 60:.0f} minutes of stages{together}, peak memory "
        f"{max(row['peak_memory_gb'] for row in costs):.1f} GB, {results['machine'].get('gpu', 'CPU')}; torch "
        f"{versions['torch']}, diffusers {versions['diffusers']}, transformers {versions['transformers']}.",
    ]
    return "\n".join(lines)


def describe_chance(tables: list[dict]) -> str:
    """Of the arm `synthetic`: how likely chance is where there are three seeds or more, against real data and against
    what is to be had without generators, and which part it closes of the gap to a perfect generator (`renderer`)."""
    told = []
    for baseline in ("real", "copy-paste", "self-training"):
        lines = []
        for table in tables:
            rows = {row["arm"]: row for row in table["rows"]}
            if not {baseline, "synthetic"} <= rows.keys() or len(rows[baseline]["seeds"]) < 3:
                continue
            before, after = (list(rows[arm]["seeds"].values()) for arm in (baseline, "synthetic"))
            difference = rows["synthetic"]["mean"] - rows[baseline]["mean"]
            line = f"on {table['split']} p = {ttest_ind(before, after, equal_var=False).pvalue:.0e}"
            if baseline != "real":
                line = f"{percent(difference, signed=True)} {line}"
            elif "renderer" in rows:
                line += f", and {difference / (rows['renderer']['mean'] - rows['real']['mean']):.0%} of the gap to "
                line += "`renderer`"
            lines.append(line)
        if lines:
            told.append(f"against {baseline} {'; '.join(lines)}")
    return f" Synthetic by Welch's t over the seeds: {'. And '.join(told)}." if told else ""


def show_samples(run: Path, docs: Path) -> str:
    """The synthesis' own contact sheet, copied into `docs`, as Markdown; nothing if the run made no samples.

    Nor of other data than the built-in scenes: its pictures are not ours to publish.
    """
    preview = run / "synthetic" / "preview.png"
    if not preview.is_file() or load_recipe(run / "recipe.yaml").data.dataset_name != SCENES:
        return ""
    name = f"{read_results(run)['recipe']}.png"
    first = docs / f"{README_SHOWS}.png"
    if first.name != name and first.is_file() and first.read_bytes() == preview.read_bytes():
        (docs / name).unlink(missing_ok=True)  # the same generators: their samples are shown already
        return ""
    shutil.copyfile(preview, docs / name)
    return f"\n\n![Samples of the run: caption, map, generated image]({name})"


def write_results(root: Path, runs: list[Path]) -> None:
    """Replace what docs/results.md under `root` says of the runs' recipes, between its two markers, or add it at the
    end; then copy what it says of the quickstart between those of README.md.

    Raises: `ValueError` if the markers are not there, or a run has no results.
    """
    page, readme = root / "docs" / "results.md", root / "README.md"
    sections = {name: text for text in _split(page)[1] if (name := _recipe_of(text))}
    _split(readme)  # refuses it before anything is written
    for run in runs:
        described = describe_run(run)
        sections[_recipe_of(described)] = described + show_samples(run, page.parent)
    _replace(page, "\n\n".join(sections.values()))
    if README_SHOWS in sections:
        _replace(readme, sections[README_SHOWS].replace("](", f"]({page.parent.name}/"))


def _split(file: Path) -> tuple[str, list[str], str]:
    """What stands before the markers, the sections between them, and what comes after."""
    try:
        head, body, tail = marked("results", file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return head, [text.strip() for text in SECTION.split(body) if text.strip()], tail


def _replace(file: Path, body: str) -> None:
    head, _, tail = _split(file)
    write_text(file, f"{head}{body}\n{tail}")


def _recipe_of(section: str) -> str | None:
    found = re.match(r"\*\*(.+?)\*\*: ", section)
    return found and found.group(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders with results.json")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of README.md and docs/results.md")
    arguments = parser.parse_args()
    try:
        write_results(arguments.root, arguments.runs)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
