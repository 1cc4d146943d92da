"""``python -m featbank``, which `torchrun -m featbank` starts several times."""

from featbank.cli import main

if __name__ == "__main__":
    main(prog_name="featbank")
