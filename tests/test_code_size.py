"""The measure of functions and modules, on a file whose sizes are plain to see."""

from code_size import measure


def test_sizes_are_those_of_the_text(tmp_path):
    text = ("import os\n\n\n@decorator(\n    1)\ndef outer():\n    def inner():\n        return 1\n    return inner\n"
            "\n\nx = 1\n")
    (tmp_path / "a.py").write_text(text)
    (tmp_path / "b.py").write_text("class C:\n    def short(self): pass\n")
    functions, modules = measure(sorted(tmp_path.glob("*.py")), tmp_path)
    assert functions == [(6, "a.py:4 outer"), (2, "a.py:7 inner"), (1, "b.py:2 short")]
    assert modules == [(12, "a.py"), (2, "b.py")]
