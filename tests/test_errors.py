"""Which errors a command line reports in one line, and that nothing else is touched."""

from __future__ import annotations

import ast
import errno
import os
import sys

import pytest
from fairseq.data import Dictionary, data_utils, indexed_dataset
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from fairseq_ffn import errors
from fairseq_ffn.errors import UserError, explain_os_error, one_line


def line_of(call) -> str:
    with pytest.raises(BaseException) as caught:
        call()
    return one_line(caught.value, caught.value.__traceback__)


def fail(error: BaseException):
    raise error


def fail_in_turn():
    try:
        raise UserError("what the person did")
    except UserError:
        raise RuntimeError("what a library made of it") from None


class TestKnownErrors:
    def test_ours_also_behind_another(self):
        assert line_of(lambda: fail(UserError("do it so"))) == "do it so"
        assert line_of(fail_in_turn) == "what the person did"

    def test_missing_files(self, tmp_path):
        missing = tmp_path / "data"
        expected = f"{missing}: no such file or directory; check the path"
        assert line_of(lambda: data_utils.infer_language_pair(str(missing))) == expected
        assert line_of(lambda: Dictionary.load(f"{missing}")) == expected
        assert line_of(lambda: fail(FileNotFoundError("Dataset not found: train (bin)"))) == (
            "Dataset not found: train (bin)"
        )

    def test_a_folder_without_data(self, tmp_path):
        line = line_of(lambda: TranslationTask.setup_task(TranslationConfig(data=str(tmp_path))))
        assert line.startswith(f"{tmp_path}: no data of fairseq-preprocess there")

    def test_a_damaged_dictionary(self, tmp_path):
        path = tmp_path / "dict.xx.txt"
        for content in (b"w1 3\nw2\n", b"w1 3\nw1 4\n", b"\xff\xfe 3\n", b"w1 many\n"):
            path.write_bytes(content)
            assert line_of(lambda: Dictionary.load(str(path))).startswith(f"{path}: ")

    def test_damaged_data(self, tmp_path):
        path = tmp_path / "train.xx-yy.xx"
        builder = indexed_dataset.make_builder(f"{path}.bin", "mmap", vocab_size=9)
        builder.add_item(indexed_dataset.torch.arange(50))
        builder.finalize(f"{path}.idx")
        size = (tmp_path / "train.xx-yy.xx.bin").stat().st_size
        with open(f"{path}.bin", "r+b") as file:
            file.truncate(size // 2)
        data = indexed_dataset.make_dataset(str(path), "mmap")
        assert line_of(lambda: data[0]) == (
            f"{path}: damaged or truncated; run fairseq-preprocess again"
        )

    @pytest.mark.parametrize(
        "module, flag",
        [("fairseq_cli.generate", "model"), ("fairseq.checkpoint_utils", "optimizer")],
    )
    def test_a_flag_that_is_no_dictionary(self, module, flag):
        for text in ("{'a'", "{a: 1}", "f()"):
            names = {"__name__": module, "ast": ast, "text": text}
            line = line_of(lambda names=names: exec("ast.literal_eval(text)", names))
            assert line.startswith(f"--{flag}-overrides: not a dictionary")


@pytest.mark.parametrize(
    "error",
    [ValueError("a bug"), KeyboardInterrupt(), MemoryError(), ConnectionError("x"), Exception("x")],
    ids=repr,
)
def test_other_errors_keep_their_traceback(error):
    assert line_of(lambda: fail(error)) is None


class TestErrorsOfTheSystem:
    """Each names the file and says what to do; no number of an error."""

    def of(self, call) -> str:
        with pytest.raises(OSError) as caught:
            call()
        return explain_os_error(caught.value)

    def test_real_ones(self, tmp_path):
        file, folder = tmp_path / "file", tmp_path / "folder"
        file.write_text("")
        folder.mkdir()
        assert self.of((tmp_path / "no").read_bytes) == (
            f"{tmp_path}/no: no such file or directory; check the path"
        )
        assert self.of(folder.read_bytes) == f"{folder}: is a directory; name a file"
        assert self.of(lambda: os.replace(file, folder)) == (
            f"{file} -> {folder}: is a directory; name a file"
        )
        assert self.of((file / "x").mkdir) == (
            f"{file}/x: a part of this path is a file, not a directory; check the path"
        )
        assert self.of(file.mkdir) == f"{file}: exists already; use another name"
        assert self.of(lambda: os.stat(os.fsencode(tmp_path / "no"))).startswith(f"{tmp_path}/no: ")

    @pytest.mark.parametrize(
        "number, words",
        [
            (errno.EACCES, "permission denied; use another path"),
            (errno.EROFS, "the disk is read-only; use another path"),
            (errno.ENOSPC, "no space left; make room"),
            (errno.ELOOP, "too many links"),
        ],
    )
    def test_others(self, number, words):
        error = OSError(number, "too many links", "a.pt")
        assert explain_os_error(error).startswith(f"a.pt: {words}")
        assert one_line(error) == explain_os_error(error)

    def test_a_full_disk_has_no_name(self):
        error = OSError(errno.ENOSPC, "No space left on device")
        assert one_line(error) == "no space left; make room, then run the same command again"


class TestHook:
    @pytest.fixture
    def hook(self, monkeypatch):
        """Install for a command; gives what the hook does with an error."""

        def install(command: str):
            seen = []
            monkeypatch.setattr(sys, "argv", [f"/somewhere/bin/{command}"])
            monkeypatch.setattr(sys, "excepthook", lambda *error: seen.append(error))
            errors.install_one_line_errors()
            errors.install_one_line_errors()  # once is enough
            return seen

        monkeypatch.delenv(errors.TRACEBACK_VARIABLE, raising=False)
        return install

    def report(self, error: Exception) -> None:
        sys.excepthook(type(error), error, error.__traceback__)

    def test_a_known_error_is_one_line(self, hook, capsys):
        seen = hook("fairseq-train")
        self.report(UserError("a\x1b[31m red\nletter"))
        assert capsys.readouterr().err == "fairseq-train: error: a?[31m red?letter\n"
        assert not seen

    def test_an_unknown_error_and_a_wish_get_the_traceback(self, hook, capsys, monkeypatch):
        seen = hook("fairseq-generate")
        self.report(ValueError("a bug"))
        assert len(seen) == 1 and capsys.readouterr().err == ""
        monkeypatch.setenv(errors.TRACEBACK_VARIABLE, "1")
        self.report(UserError("known"))
        assert len(seen) == 2 and capsys.readouterr().err == "fairseq-generate: error: known\n"

    def test_other_programs_are_left_alone(self, hook):
        seen = hook("jupyter")
        self.report(UserError("known"))
        assert len(seen) == 1
