"""The head of a run's report: the figures that a reader wants first, and what was run."""

from typing import Any

from geovq_jax.config import default_config, flat
from geovq_jax.evaluation.image_metrics import PAIRINGS
from geovq_jax.evaluation.statistics import Interval
from geovq_jax.report import generation
from geovq_jax.report.page import Section, Table
from geovq_jax.stages.run import Run


def headline(metrics: dict[str, Any]) -> dict[str, Any]:
    """The most important figures in report/metrics.json: name with unit -> number, words or `Interval`."""
    images, codes, prior, edges = metrics["images"], metrics["codes"], metrics["prior"], metrics["geometry"]["edges"]

    def image(pair: str, name: str) -> Interval:
        return Interval(*(images[pair][f"{name}{end}"] for end in ("", "_low", "_high")))

    return {
        **{f"PSNR {pair} [dB]": image(pair, "psnr") for pair in PAIRINGS},
        **{f"SSIM {pair}": image(pair, "ssim") for pair in PAIRINGS[:2]},
        "codes used": f"{codes['used']} of {codes['num_codes']}",
        "perplexity": codes["perplexity"],
        "NMI with the class": metrics["classes"]["nmi"],
        "purity": metrics["classes"]["purity"],
        "prior given the class [bits per code]": generation.interval(prior["gpt"]),
        "prior without the class [bits per code]": generation.interval(prior["gpt_without_class"]),
        "bigram [bits per code]": generation.interval(prior["bigram"]),
        "unigram [bits per code]": generation.interval(prior["unigram"]),
        **generation.headline(metrics["scores"]),
        "edge lengths, pull-back vs Euclidean: correlation": edges["correlation"],
        "edge lengths, pull-back over Euclidean: median": edges["ratio_median"],
    }


def section(run: Run, figures: dict[str, Any]) -> Section:
    """Figures of `headline`, settings that differ from the defaults, and the machine."""
    dataset = run.dataset
    counts = ", ".join(f"{len(getattr(dataset, name).images):,} {name}" for name in ("train", "valid", "test"))
    text = f"""Images: {dataset.name} ({counts}). Every figure is of the test split, which no training has seen;
        brackets hold 95 % intervals over its images."""
    defaults, own = flat(default_config()), flat(run.config)
    changed = [[key, _words(value)] for key, value in own.items() if value != defaults[key] and key != "data.dir"]
    return Section(
        "Figures",
        text,
        tables=[
            Table("", ["figure", "value"], list(figures.items())),
            Table("What was run: settings that differ from the defaults", ["key", "value"], changed),
            Table("Where", ["", ""], _machine(run.environment)),
        ],
        links=[("all figures", "metrics.json"), ("configuration", "../config.json"), ("what ran", "../stages.json")],
    )


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _machine(record: dict[str, Any]) -> list[list[str]]:
    rows = [["versions", ", ".join(f"{name} {number}" for name, number in record["versions"].items())]]
    if record["git"]:
        rows.append(["commit", record["git"]["commit"] + (", with changes" if record["git"]["dirty"] else "")])
    rows.append(["platform", record["platform"]])
    if "jax" in record:
        rows.append(["devices", f"{', '.join(record['jax']['devices'])} ({record['jax']['backend']})"])
    return rows
