from pathlib import Path
def recognizes(root: Path) -> bool: return False
