"""Ranks of which one is lost; importable by the processes."""
import datetime
import os
import signal
import time

import torch
import torch.distributed as dist

from cotap_mm.engine.lost_ranks import explained_losses

SECONDS = 5


def collectives(rank, world, port, folder, lost, how):
    """Sums until one rank is lost; the others write what they say of it."""
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    dist.init_process_group('gloo', rank=rank, world_size=world,
                            timeout=datetime.timedelta(seconds=SECONDS))
    try:
        with explained_losses(lambda: step):
            for step in range(100):
                if step == 3 and rank == lost:
                    if how == 'dies':
                        os.kill(os.getpid(), signal.SIGKILL)
                    (folder / 'stalls').touch()
                    time.sleep(600)
                dist.all_reduce(torch.ones(1))
    except RuntimeError as error:
        (folder / str(rank)).write_text(str(error))
        # The store goes with rank 0, and the others still look into it.
        time.sleep(4 if rank == 0 else 0)
        os._exit(1)
