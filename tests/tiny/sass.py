"""Does a kernel's machine code read a register before it is written? ptxas (CUDA 12.8, 12.9) made such code."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

_CODE = re.compile(r"^\s+/\*[0-9a-f]{4}\*/\s+(?:@!?U?P\w+\s+)?([^;/]+);")
_REGISTER = re.compile(r"\bR(\d+)\b")
_STACK = 1  # what R1 points to, before the first instruction
# They write what they read of their first operand: half a register, which keeps the other half.
_MERGES = re.compile(r"PRMT R(\d+), .*, R\1")
_WRITES_NOTHING = ("ST", "RED", "BAR", "BRA", "EXIT", "BS", "ISETP", "FSETP", "MEMBAR", "CCTL", "WARPSYNC", "UTMA")


def read_unwritten(cubin: Path, disassembler: Path) -> list[str]:
    """Instructions that read a register which none of those at lower addresses writes.

    Args:
        cubin: A kernel's code, for a GPU from Volta on.
        disassembler: ``cuobjdump``.
    """
    listing = subprocess.run([disassembler, "-sass", cubin], capture_output=True, text=True, check=True).stdout
    written, found = {_STACK}, []
    for code in filter(None, map(_CODE.match, listing.splitlines())):
        instruction = code[1].strip()
        name, _, rest = instruction.partition(" ")
        operands = rest.split(",")
        # A predicate may stand before the register that is written too.
        first = next((index for index, operand in enumerate(operands) if not re.match(r"\s*U?PT?\d?$", operand)), 0)
        target = _REGISTER.fullmatch(operands[first].strip())
        if name.startswith(_WRITES_NOTHING):
            target = None
        read = [int(each) for operand in operands[first + bool(target) :] for each in _REGISTER.findall(operand)]
        if not set(read) <= written and not _MERGES.match(instruction):
            found.append(instruction)
        written |= set(read)  # told once
        if target is not None:
            wide = 4 if re.search(r"\.128|MMA|LDSM", name) else 2 if re.search(r"64|WIDE|CS2R", name) else 1
            written |= {int(target[1]) + offset for offset in range(wide)}
    return found
