"""Backups: consistent dumps, repositories, restore points, the oplog archive, verification."""
