"""Python in the documents runs and does what the text says."""
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / 'docs'


def test_ranking_loss_by_itself():
    block, = re.findall(r'```python\n(.*?)```', (DOCS / 'ranking_loss.md').read_text(), re.S)
    names = {}
    exec(block, names)  # noqa: S102
    losses = names['losses']
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
