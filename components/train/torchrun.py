"""torchrun, ending with whoever started it: `python -m components.train.torchrun PARENT ARGUMENT...`."""

import sys

from components.train.orphan import end_with

if __name__ == "__main__":
    end_with(int(sys.argv.pop(1)))

    from torch.distributed.run import main

    main()
