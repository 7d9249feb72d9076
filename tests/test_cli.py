import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from surmin import __version__
from surmin.cli import DEBUG_VARIABLE, main
from surmin.experiments.runs.metrics import read_rows
from tests.experiments.runs.cases import contents

TINY = ["--train-samples", "60", "--layers", "3", "--width", "8", "--stages", "2", "--rounds", "3"]


def run_python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120)


def test_train(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert main(["train", *TINY, "--method", "adam", "--lr", "0.01", "--out", str(folder)]) == 0
    output, errors = capfd.readouterr()
    assert errors == "" and output.startswith("finished after 3 rounds, ")
    assert {path.name for path in folder.iterdir()} == {"checkpoint", "config.json", "curves.png", "metrics.jsonl"}
    options = json.loads((folder / "config.json").read_text())["options"]
    assert (options["method"], options["lr"], options["width"]) == ("adam", 0.01, 8)


def test_train_resumed_takes_the_options_of_the_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    main(["train", *TINY, "--method", "adam", "--out", str(first)])
    assert main(["train", "--resume", str(first), "--rounds", "5", "--out", str(second)]) == 0
    assert len(read_rows(first / "metrics.jsonl")) == 4 and len(read_rows(second / "metrics.jsonl")) == 6
    assert json.loads((second / "config.json").read_text())["options"]["width"] == 8
    capfd.readouterr()
    assert main(["train", "--resume", str(first), "--width", "9"]) == 2
    assert capfd.readouterr().err == "surmin: --width cannot change on resuming: the run has 8, not 9\n"


def test_divergence_is_said_and_has_an_exit_code_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *TINY, "--method", "gd", "--lr", "1e30", "--out", str(tmp_path / "run")]) == 4
    output, errors = capfd.readouterr()
    assert errors == "" and output.startswith("diverged after ")


def test_the_default_folder_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("sm-digits-")


def test_compare(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "all"
    words = ["compare", *TINY, "--methods", "sm,adam", "--lr", "adam=0.01,0.1", "--seeds", "2", "--out", str(folder)]
    assert main(words) == 0
    output, errors = capfd.readouterr()
    assert errors == ""
    assert "sm" in output and "adam, lr" in output and "medians over 2 seeds" in output
    assert f"picture: {folder / 'curves.png'}\npage:    {folder / 'report.html'}\n" in output
    assert {"config.json", "results.csv", "report.html", "curves.png", "loss-rounds.png"} <= set(contents(folder))
    assert main(["compare", "--resume", str(folder)]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a command, one of train, compare"),
        (["trian"], "unknown command 'trian': did you mean 'train'? choose one of train, compare"),
        (["check", "--workers", "2"], "Unrecognized options: --workers, 2; see surmin check --help"),
        (["train", "--laers", "8"], "Unrecognized options: --laers, 8; did you mean --layers?"),
        (["train", "--layers", "x"], "Error parsing --layers"),
        (["train", "--layers"], "Missing value for argument '--layers'"),
        (["train", "--dtype", "float16"], "invalid choice 'float16' for argument '--dtype'"),
        (["train", "--layers", "0"], "layers must be at least 1, got 0"),
        (["train", "--workers", "3", "--stages", "2"], "3 workers cannot share 2 stages"),
        (["compare", "--workers", "2"], "surmin compare runs in one process"),
        (["compare", "--schedule", "gpipe"], "Unrecognized options: --schedule, gpipe; see surmin compare --help"),
        (["compare", "--timeout", "60"], "Unrecognized options: --timeout, 60; see surmin compare --help"),
        (["train", "--method", "adan"], "unknown method 'adan': did you mean 'adam'?"),
        (["train", "--method", "adam", "--damping", "1"], "method adam does not take --damping; it takes --lr"),
        (["train", "--curvature", "scalar", "--delta", "-1"], "delta must be positive, got -1.0"),
        (["train", "--data", "nowhere"], "no data 'nowhere'"),
        (["train", "--data", "~nobody-here"], "~nobody-here: "),
        (["train", "--data-dir", "x"], "data_dir is for the sources mnist and text"),
        (["train", "--microbatches", "7"], "1437 samples cannot be cut into 7 equal microbatches"),
        (["train", "--model", "cnn", "--data", "text"], "cnn needs numbers, this data has token ids"),
        (["train", "--model", "gpt", "--data", "text"], "a round on all 6,539 windows of this text takes a lot of mem"),
        (["compare", "--model", "gpt", "--data", "text"], "a round on all 6,539 windows of this text takes a lot of"),
        (["train", "--damping", "nan"], "damping must be"),
        (["train", "--delta", "nan", "--curvature", "scalar"], "delta must be"),
        (["train", "--curvature-fraction", "nan"], "curvature_fraction must be"),
        (["train", "--inner-tolerance", "nan", "--preset", "trips"], "inner_tolerance must be"),
        (["train", "--method", "dladmm", "--penalty", "nan"], "penalty must be"),
        (["train", "--resume", "nowhere"], "nowhere: no such folder to resume"),
        (["train", "--out", "/dev/null/run"], "/dev/null/run cannot be made, /dev/null is a file"),
        (["train", "--out", "/dev/null"], "/dev/null is a file, not a folder"),
        (["compare", "--methods", "sm,foo"], "unknown method 'foo': choose one of sm"),
        (["compare", "--methods", "sm", "--lr", "1"], "none of the methods sm takes --lr"),
        (["compare", "--lr", "adam=x"], "--lr adam=x: 'x' is not a positive number"),
        (["compare", "--resume", "nowhere"], "nowhere: no such folder to resume"),
    ],
)
def test_user_errors_are_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    output, errors = capfd.readouterr()
    assert output == "" and errors.count("\n") == 1
    assert errors.startswith(f"surmin: {message}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["check", "--layers", "2", "--trials", "1"]])
def test_output_that_nothing_reads_has_an_exit_code_of_its_own(tmp_path: Path, words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "surmin", *words],
            stdout=write, stderr=subprocess.PIPE, text=True, timeout=120, cwd=tmp_path,
        )  # fmt: skip
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "surmin: nothing reads the standard output any more\n")


def test_what_a_stream_has_no_letters_for_does_not_end_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(output, encoding="latin-1"))
    assert main(["check", "--train-samples", "6", "--width", "4", "--trials", "3", "--out", str(tmp_path / "a")]) == 0
    assert b"?_max short by" in output.getvalue()


def test_where_an_error_comes_from_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    with pytest.raises(ValueError, match="layers must be at least 1"):
        main(["train", "--layers", "0"])


def test_an_interrupt_before_training(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("surmin.experiments.runs.run.load_data", interrupted)
    assert main(["train", *TINY]) == 130
    assert capfd.readouterr().err == "surmin: interrupted\n"


@pytest.mark.parametrize("command", ["train", "compare"])
def test_help_names_every_option_of_the_contract(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    text = capfd.readouterr().out
    options = (
        "data data-dir train-samples model layers width activation stages workers microbatches lr curvature delta rank "
        "inner-steps curvature-fraction damping blocks preset local dtype device rounds batch-size target-loss seed "
        "threads out resume " + {"train": "method", "compare": "methods"}[command]
    )
    missing = [option for option in options.split() if f"--{option} " not in text]
    assert missing == []


def test_the_version_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capfd.readouterr().out == f"surmin {__version__}\n"


def test_the_package_has_its_names_and_modules_without_torch() -> None:
    program = (
        "import sys, surmin\nprint(set(surmin.__all__) - set(dir(surmin)), 'torch' in sys.modules)\n"
        "print(surmin.options.Options.__name__, hasattr(surmin, 'nothing'), hasattr(surmin, '__main__'))"
    )
    done = run_python("-c", program)
    assert (done.stdout, done.stderr) == ("set() False\nOptions False False\n", "")


def test_help_does_not_wait_for_what_it_does_not_need() -> None:
    program = (
        "import sys\nfrom surmin.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print({'torch', 'sklearn', 'matplotlib', 'scipy'} & set(sys.modules))"
    )
    assert run_python("-c", program).stdout.endswith("set()\n")


@pytest.mark.parametrize("command", ["train", "timeline"])
def test_who_starts_workers_leaves_torch_to_them(tmp_path: Path, command: str) -> None:
    program = (
        "import sys\nfrom surmin.cli import main\nfrom surmin.commands import launching\n"
        "launching.supervise = lambda count, *_, **__: print(count, 'workers') or 0\n"
        f"main(['{command}', '--workers', '2', '--out', 'new'])\n"
        "print({'torch', 'sklearn', 'matplotlib', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("2 workers\nset()\n", "")


@pytest.mark.slow
def test_as_a_module_and_as_a_program(tmp_path: Path) -> None:
    done = run_python("-m", "surmin", "train", *TINY, "--out", str(tmp_path / "run"))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2
    program = Path(sys.executable).with_name("surmin")
    if os.access(program, os.X_OK):
        failed = subprocess.run([program, "train", "--layers", "0"], capture_output=True, text=True, timeout=120)
        assert (failed.returncode, failed.stdout) == (2, "")
        assert failed.stderr == "surmin: layers must be at least 1, got 0\n"
