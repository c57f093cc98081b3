"""An executable as ``python`` whose processes are forked from one that has imported the libraries.

Starting Python and importing PyTorch and MMEngine takes seconds for each process of a launcher. The
launchers themselves (torchrun, mim, a script) do not notice: they start an executable that hands
its arguments, folder, environment and files to a server, forwards signals to the process that the
server forks, and ends as that ends. Signals that cannot be caught stop only the executable, except
SIGKILL, after which the server kills the process.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
import types
from pathlib import Path

_CLIENT = r"""#!{python} -SE
import array, json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
words = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
files = array.array('i', [0, 1, 2])
server.sendmsg([len(words).to_bytes(8, 'big')], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
early, process = [], 0
def forward(number, frame):
    os.kill(process, number) if process else early.append(number)
for number in (1, 2, 3, 10, 12, 15):
    if number > 2 or signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, forward)
server.sendall(words)
process = int.from_bytes(server.recv(8), 'big')
for number in early:
    os.kill(process, number)
status = int.from_bytes(server.recv(8), 'big', signed=True)
if status < 0 and -status != signal.SIGKILL:
    signal.signal(-status, signal.SIG_DFL)
if status < 0:
    os.kill(os.getpid(), -status)
os._exit(status)
"""


class WarmPython:
    """A server forked from this process, or run by another Python, and its executable.

    Args:
        folder (Path): Folder of the executable, which is named ``name``, and of its socket.
        name (str): Defaults to 'warm_python'.
        prepare (callable, optional): Called in the server, to forget what this process did.
    """

    def __init__(self, folder, name='warm_python', prepare=None):
        self.path, self.address = folder / name, folder / f'{name}.socket'
        self.path.write_text(_CLIENT.format(python=sys.executable, address=str(self.address)))
        self.path.chmod(0o755)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(self.address))
        listening.listen(16)
        self.server = os.fork()
        if not self.server:
            if prepare:
                prepare()
            _serve(listening, str(self.path))
        listening.close()

    def __enter__(self):
        return str(self.path)

    def __exit__(self, *_):
        os.kill(self.server, signal.SIGKILL)
        os.waitpid(self.server, 0)


def _serve(listening, executable):
    """Fork a process for each connection, until this one is killed, or its parent is."""
    parent = os.getppid()
    while os.getppid() == parent:
        if not select.select([listening], [], [], 1)[0]:
            continue
        connection, _ = listening.accept()
        if not os.fork():
            listening.close()
            os._exit(_watch(connection, executable))
        connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    os._exit(0)


def _watch(connection, executable):
    """Start what a client asks for, and tell it how that ends."""
    files = array.array('i')
    length, [(_, _, sent)], *_ = connection.recvmsg(8, socket.CMSG_LEN(3 * files.itemsize))
    files.frombytes(sent)
    words = b''
    while len(words) < int.from_bytes(length, 'big'):
        words += connection.recv(1 << 16)
    process = os.fork()
    if not process:
        connection.close()
        _become(executable, files, *json.loads(words))
    for file in files:
        os.close(file)
    connection.sendall(process.to_bytes(8, 'big'))
    while True:
        if select.select([connection], [], [], 0.02)[0]:  # the client was killed
            os.kill(process, signal.SIGKILL)
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            with contextlib.suppress(OSError):
                status = os.waitstatus_to_exitcode(status)
                connection.sendall(status.to_bytes(8, 'big', signed=True))
            return 0


def _become(executable, files, words, folder, environment):
    """Run a Python command line in this process, and end it."""
    status = 1
    try:
        for number in (signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)  # an earlier test may have ignored it
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        sys.stdin = sys.__stdin__ = open(0, closefd=False)
        sys.stdout = sys.__stdout__ = open(1, 'w', closefd=False)
        sys.stderr = sys.__stderr__ = open(2, 'w', buffering=1, closefd=False)
        os.chdir(folder)
        before = os.environ.get('PYTHONPATH', '').split(os.pathsep)
        os.environ.clear()
        os.environ.update(environment)
        told = os.environ.get('PYTHONPATH', '').split(os.pathsep)
        installed = [path for path in sys.path if path not in before]
        sys.path[:] = [*filter(None, told), *installed]
        sys.executable = executable
        status = _status_of(words)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
        os._exit(status)


def _status_of(words):
    """Exit status of ``python WORDS``: options, then a module, a command or a file."""
    words = list(words)
    while words[0].startswith('-') and words[0] not in ('-m', '-c'):
        words[: 2 if words[0] in ('-W', '-X') else 1] = []
    try:
        if words[0] == '-m':
            sys.path.insert(0, os.getcwd())
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name='__main__', alter_sys=True)
        elif words[0] == '-c':
            sys.path.insert(0, '')
            sys.argv = ['-c', *words[2:]]
            main = sys.modules['__main__'] = types.ModuleType('__main__')
            exec(words[1], vars(main))
        else:
            sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
            sys.argv = words
            runpy.run_path(words[0], run_name='__main__')
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return (ended.code or 0) & 255
        print(ended.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return 0


@contextlib.contextmanager
def served_by(python, folder, *modules):
    """Executable of a server that ``python`` runs, which imports nothing but ``modules``."""
    server = subprocess.Popen(
        [python, __file__, folder, 'warm_python', *modules],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH='', OMP_NUM_THREADS='1'),
    )
    try:
        yield server.stdout.readline().strip()
    finally:
        server.communicate()


def main(folder, name, *modules):
    """Serve by the Python that runs this file, after importing modules, until its input ends."""
    del sys.path[0]  # the folder of this file
    for module in modules:
        importlib.import_module(module)
    with WarmPython(Path(folder), name) as path:
        print(path, flush=True)
        sys.stdin.read()


if __name__ == '__main__':
    main(*sys.argv[1:])
