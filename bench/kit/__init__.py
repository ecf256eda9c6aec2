"""What the benches share: volumes that leave nothing behind, whole-tree comparison, timing, the binary."""
