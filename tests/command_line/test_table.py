from __future__ import annotations

from cotap_mm.command_line.table import markdown_table, print_table


def test_markdown_table():
    assert markdown_table(['a', 'b'], [[1, 2]]) == '| a | b |\n| --- | --- |\n| 1 | 2 |'
    assert markdown_table(['a', 'long'], [['xyz', 2.5]], align=True) == (
        '| a   | long |\n| --- | ---- |\n| xyz | 2.5  |'
    )


def test_print_table(capsys):
    print_table(['name', 'score'], [['first', 1.5], ['b', 12]])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if 'first' in line] == ['│ first │   1.5 │']
    assert [line for line in lines if '12' in line] == ['│ b     │    12 │']
