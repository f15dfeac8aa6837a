"""Signing keys that never leave a hardware security module, or a program that stands in for one."""
