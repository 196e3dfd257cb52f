"""The command that makes a corpus."""

import pytest

from pipelines.demo_corpus import main


@pytest.mark.parametrize("action", ["carry", "make"])
def test_help_says_what_is_needed(action, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([action, "--help"])
    assert stopped.value.code == 0
    assert "--template" in capsys.readouterr().out


def test_a_missing_template_is_a_message(tmp_path, caplog):
    arguments = ["make", "--template", str(tmp_path / "none"), "--out", str(tmp_path / "corpus")]
    assert main(arguments) == 1
    assert "template" in caplog.text
    assert not (tmp_path / "corpus").exists()
