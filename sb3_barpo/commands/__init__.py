"""The commands of ``sb3-barpo``, one file each."""
