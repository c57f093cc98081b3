"""Signals to command-line tools, also while they exit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from cotap_mm import signals
from cotap_mm.command_line.tool import slow_imports, tool
from tests.helpers.tool_errors import exit_code_of


def test_ctrl_c(capsys):
    assert exit_code_of(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == 'interrupted\n'
    assert exit_code_of(KeyboardInterrupt('--resume continues')) == 130
    assert capsys.readouterr().err == 'interrupted; --resume continues\n'


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='forks')
def test_ctrl_c_during_imports_ends_the_tool_even_if_a_package_catches_it(tmp_path):
    @tool
    def main():
        with slow_imports():
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(30)
            except BaseException:
                pass

    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(tmp_path / 'output', os.O_WRONLY | os.O_CREAT), 2)
            main()
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert (tmp_path / 'output').read_text() == (
        'interrupted. Nothing had to be saved; start again with the same command\n'
    )


@pytest.mark.parametrize('name', signals.SIGNALS)
def test_a_stop_signal(capsys, name):
    def main():
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(30)

    before = signal.getsignal(getattr(signal, name))
    with pytest.raises(SystemExit) as end:
        tool(main)()
    assert end.value.code == 75
    assert capsys.readouterr().err == (
        f'{name}: stopped with status 75. Nothing had to be saved; start again with the same '
        'command\n'
    )
    assert signal.getsignal(getattr(signal, name)) == before


@pytest.mark.parametrize('is_stopped, status', [(False, 0), (True, 75)])
def test_signals_do_not_change_the_status_of_a_finished_command(is_stopped, status):
    script = f"""
import os, signal
from cotap_mm.command_line.tool import run_script, tool

class AtExit:
    def __del__(self):
        for name in {signals.SIGNALS}:
            os.kill(os.getpid(), getattr(signal, name))

@tool
def main():
    if {is_stopped}:
        os.kill(os.getpid(), signal.SIGTERM)

if __name__ == '__main__':
    os.at_exit = AtExit()
    run_script(main)
"""
    assert subprocess.run([sys.executable, '-c', script]).returncode == status


@pytest.mark.skipif(not hasattr(signal, 'SIGCHLD'), reason='signals of POSIX')
@pytest.mark.skipif(sys.version_info >= (3, 12), reason='Python does not fork while it exits')
def test_a_child_that_dies_after_the_end_causes_no_traceback():
    """PyTorch's handler of SIGCHLD raises for a dead loader worker, also while Python exits."""
    script = """
import atexit, os, signal, time
from cotap_mm.command_line.tool import run_script, tool

def fail(*_):
    raise RuntimeError('DataLoader worker is killed')

def lose_a_child():
    if os.fork() == 0:
        os._exit(1)
    time.sleep(0.5)

@tool
def main():
    atexit.register(lose_a_child)
    signal.signal(signal.SIGCHLD, fail)

run_script(main)
"""
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert done.returncode == 0 and 'Traceback' not in done.stderr, done.stderr
