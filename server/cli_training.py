"""`zephyra router ...` and `zephyra adapters ...`: training and evaluation. Each imports what it needs when called."""

import json
from pathlib import Path
from typing import Annotated

import typer

from server.settings import BUNDLE

router = typer.Typer(no_args_is_help=True, help="Train and evaluate TinyAda.")
adapters = typer.Typer(no_args_is_help=True, help="Train, import and evaluate adapters.")

Data = Annotated[
    list[Path], typer.Option(help="JSONL or CSV with `text` and `domain`, or hf:NAME[:SPLIT]; repeatable.")
]
Weights = Annotated[Path | None, typer.Option(help="TinyAda's directory; the shipped one when absent.")]
Base = Annotated[str, typer.Option(help="The base: a directory or a Hugging Face id; the shipped one when absent.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result here as JSON.")]
SHIPPED_BASE = str(BUNDLE / "base")


@router.command("train")
def train_router(
    data: Data,
    out: Annotated[Path, typer.Option(help="The directory to write.")],
    exclude: Annotated[list[Path] | None, typer.Option(help="Evaluation files, kept out of training.")] = None,
    work: Annotated[Path | None, typer.Option(help="Where the stages keep their files.")] = None,
    teacher: Annotated[str, typer.Option(help="none, minilm, or a Hugging Face encoder.")] = "none",
    unlabelled: Annotated[list[Path] | None, typer.Option(help="Further texts for the teacher to label.")] = None,
    folds: Annotated[int, typer.Option(help="Held-out folds for calibration.", min=2)] = 3,
    epochs: Annotated[int, typer.Option(min=1)] = 6,
) -> None:
    """Train a TinyAda for any set of 2 to 50 domains; the same call continues what was stopped."""
    from router import RouterError
    from router.training import pipeline

    try:
        pipeline.train(data, out, exclude, work, teacher, folds=folds, unlabelled=unlabelled, epochs=epochs)
    except RouterError as error:
        raise typer.BadParameter(str(error)) from None


@router.command("evaluate")
def evaluate_router(
    data: Data,
    weights: Weights = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """Measure a TinyAda on labelled prompts it was not trained on."""
    from router import RouterError
    from router.training.evaluate import evaluate

    try:
        found = evaluate(data, weights)
    except RouterError as error:
        raise typer.BadParameter(str(error)) from None
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        if isinstance(value, int | float | str):
            typer.echo(f"{name:28} {value}")


@adapters.command("train")
def train_adapter(
    data: Annotated[Path, typer.Option(help="JSONL with `prompt` and `response`, or `messages`.", exists=True)],
    domain: Annotated[str, typer.Option(help="The domain it will serve.")],
    out: Annotated[Path, typer.Option(help="The directory to write; its name becomes the adapter's.")],
    base: Base = SHIPPED_BASE,
    steps: Annotated[int, typer.Option(min=1)] = 600,
    rank: Annotated[int, typer.Option(min=1)] = 16,
    alpha: Annotated[float, typer.Option(min=0.1)] = 32.0,
    learning_rate: Annotated[float, typer.Option(min=1e-7)] = 2e-3,
    batch_rows: Annotated[
        int, typer.Option(help="Packed rows of 256 tokens a step; two suit a CPU, a GPU takes more.", min=1)
    ] = 2,
    qlora: Annotated[bool, typer.Option(help="Keep the frozen base in 4-bit NF4.")] = False,
    dora: Annotated[bool, typer.Option(help="DoRA, for comparison only: no engine here serves it.")] = False,
    seed: int = 0,
) -> None:
    """Train a LoRA adapter; the same call continues what was stopped."""
    from adapters import lora, training
    from adapters.dataset import DataError

    config = lora.LoraConfig(rank=rank, alpha=alpha, dora=dora)
    settings = training.TrainSettings(
        lora=config, qlora=qlora, steps=steps, learning_rate=learning_rate, batch_rows=batch_rows, seed=seed
    )
    try:
        manifest = training.train(base, data, domain, out, settings)
    except (OSError, ValueError, DataError) as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(json.dumps(manifest, indent=1))


@adapters.command("import")
def import_adapter(
    source: Annotated[Path, typer.Argument(help="A LoRA in PEFT's format.", exists=True)],
    out: Annotated[Path, typer.Option(help="The new directory; its name becomes the adapter's.")],
    base: Base = SHIPPED_BASE,
    domain: Annotated[str | None, typer.Option(help="The domain it serves.")] = None,
) -> None:
    """Take an adapter that was trained elsewhere, through the checks of serving."""
    from adapters import importing

    try:
        facts = importing.import_adapter(source, out, base, domain)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(f"{out}: rank {facts.rank}, {len(facts.modules)} modules, {facts.bytes} bytes")


@adapters.command("evaluate")
def evaluate_adapters(
    base: Base = SHIPPED_BASE,
    adapter: Annotated[
        list[Path] | None, typer.Option(help="An adapter's directory; the shipped seven if none.")
    ] = None,
    json_file: Json = None,
    heat_map: Annotated[Path | None, typer.Option(help="Draw the matrix here (PNG).")] = None,
    count: Annotated[int, typer.Option(help="Questions of each exam.", min=1)] = 100,
    seed: int = 0,
    server: Annotated[
        str | None, typer.Option(help="Ask a running server at this URL, `zephyra-resolve` too, instead.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="The server's API key.", envvar="ZEPHYRA_API_KEY")] = None,
) -> None:
    """Examine the base and every adapter on every domain's exam."""
    from adapters.evaluation import draw_matrix, evaluate, write_json
    from server.settings import shipped_adapters

    if server:
        import aiohttp

        from server.examination import examine_server

        try:
            result = examine_server(server.rstrip("/"), count, seed, key)
        except aiohttp.ClientError as error:
            raise typer.BadParameter(f"{server} does not answer the exam: {error}") from None
        if json_file:
            write_json(json_file, result)
        if heat_map:
            draw_matrix(result["matrix"], heat_map)
        return
    chosen = {path.name: path for path in adapter or []}
    if not chosen:
        chosen = {name: found.path for name, found in shipped_adapters().items()}
    evaluate(base, chosen, json_file, heat_map, count, seed)


@adapters.command("decisions")
def exam_decisions(
    json_file: Annotated[Path, typer.Option("--json", help="Write prompt -> domain here.")],
    count: Annotated[int, typer.Option(help="Questions of each exam.", min=1)] = 60,
    seeds: Annotated[int, typer.Option(help="Exams 0 to SEEDS - 1.", min=1)] = 3,
    weights: Weights = None,
) -> None:
    """Route the exams' prompts with TinyAda, for the comparison (`python -m adapters.comparison --decisions`)."""
    from adapters.evaluation import write_json
    from router import TinyAda
    from server.examination import exam_decisions as decide

    chosen = decide(count, seeds, TinyAda.load(weights))
    write_json(json_file, chosen)
    typer.echo(f"{len(chosen)} decisions in {json_file}")
