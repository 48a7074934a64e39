"""First and last parts of the report: findings, headline numbers, and what was run."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from geovq_jax.config import default_config, flat
from geovq_jax.evaluation.image_metrics import PAIRINGS
from geovq_jax.evaluation.statistics import Interval
from geovq_jax.report import generation
from geovq_jax.report.findings import Suggestion
from geovq_jax.report.page import Finding, Section, Table, headline_table
from geovq_jax.stages.run import Run


def headline(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The main numbers of report/metrics.json: group -> name with unit -> number, words or `Interval`."""
    images, codes, prior, edges = metrics["images"], metrics["codes"], metrics["prior"], metrics["geometry"]["edges"]

    def image(pair: str, name: str) -> Interval:
        return Interval(*(images[pair][f"{name}{end}"] for end in ("", "_low", "_high")))

    groups = {
        "quality": {
            **{f"PSNR {pair} [dB]": image(pair, "psnr") for pair in PAIRINGS},
            **{f"SSIM {pair}": image(pair, "ssim") for pair in PAIRINGS[:2]},
        },
        "rate": {
            "coded bits per image": prior["gpt"]["bits_per_image"],
            "prior given the class [bits per code]": generation.interval(prior["gpt"]),
            "prior without the class [bits per code]": generation.interval(prior["gpt_without_class"]),
            "bigram [bits per code]": generation.interval(prior["bigram"]),
            "unigram [bits per code]": generation.interval(prior["unigram"]),
        },
        "samples": generation.headline(metrics["scores"]),
        "codes": {
            "codes used": f"{codes['used']} of {codes['num_codes']}",
            "perplexity": codes["perplexity"],
            "NMI with the class": metrics["classes"]["nmi"],
            "purity": metrics["classes"]["purity"],
        },
        "geometry": {
            "edge lengths, pull-back vs Euclidean: correlation": edges["correlation"],
            "edge lengths, pull-back over Euclidean: median": edges["ratio_median"],
        },
    }
    return {group: figures for group, figures in groups.items() if figures}


def kept(records: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """Model -> (step whose weights were kept, last step of training), from the training records."""
    found = {}
    for stage, name in (("vae", "VAE"), ("joint", "joint training"), ("prior", "prior")):
        own = [record for record in records if record["stage"] == stage]
        if own:
            found[name] = min(own, key=lambda record: record["valid/objective"])["step"], own[-1]["step"]
    return found


def facts(run: Run) -> dict[str, Any]:
    """Settings of the run that the conclusions depend on."""
    config, steps = run.config, kept(run.training_records)
    codes, latents = run.codes("test").codes, run.latents("test").mean
    length = "joint_steps" if "joint training" in steps else "num_steps"
    return {
        "kind": "spatial" if latents.ndim == 4 else "vanilla",
        "method": run.method,
        "num_codes": len(run.codebook.vectors),
        "codes_per_image": int(np.prod(codes.shape[1:])),
        "latent_dim": latents.shape[-1],
        "search": config.codes.search,
        "rate_weight": config.codes.rate_weight,
        "guidance": float(run.samples["guidance"]),
        "vae_length": f"vae.{length}",
        "vae_steps": config.vae[length],
        "vae_best_step": steps.get("joint training", steps.get("VAE", (None, 0)))[0],
        "prior_steps": config.prior.num_steps,
        "prior_best_step": steps["prior"][0],
        "prior_dropout": config.prior.dropout,
    }


def better(figures: dict[str, Any]) -> dict[str, list[str]]:
    """Numbers of a group of which higher, or lower, is better."""
    lower = ("coded bits", "prior", "bigram", "unigram", "Frechet")
    higher = ("PSNR", "SSIM", "classified as", "NMI", "purity")
    return {
        "higher": [name for name in figures if name.startswith(higher)],
        "lower": [name for name in figures if name.startswith(lower)],
    }


def findings_section(found: list[Finding]) -> Section:
    """The first part of the report: what the run shows."""
    return Section("What this run shows", findings=found)


def figures_section(run: Run, groups: dict[str, dict[str, Any]], commands: Sequence[Suggestion]) -> Section:
    """Numbers of `headline` by group, and what to run next."""
    dataset = run.dataset
    counts = ", ".join(f"{len(getattr(dataset, name).images):,} {name}" for name in ("train", "valid", "test"))
    text = f"""Images: {dataset.name} ({counts}). All numbers are of the test split, which is not used for
        training; below each is its 95 % interval over images."""
    tables = [headline_table(group, figures, **better(figures)) for group, figures in groups.items()]
    rows = [[entry.reason, entry.command] for entry in commands]
    tables.append(
        Table("Next commands", ["why", "command (W: work directory; what it changes is rerun in place)"], rows)
    )
    return Section("Figures", text, tables=tables, links=[("all numbers", "metrics.json")])


def settings_section(run: Run) -> Section:
    """Settings that differ from the defaults, and the machine."""
    defaults, own = flat(default_config()), flat(run.config)
    changed = [[key, _words(value)] for key, value in own.items() if value != defaults[key] and key != "data.dir"]
    return Section(
        "Settings",
        tables=[
            Table("Settings that differ from the defaults", ["key", "value"], changed),
            Table("Where", ["what", "value"], _machine(run.environment)),
        ],
        links=[("configuration", "../config.json"), ("what ran", "../stages.json")],
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
