"""Starting workers on this machine, watching over them, and being one."""
