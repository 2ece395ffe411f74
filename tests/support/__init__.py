"""What the tests share: real parts, started and stopped, and ways to wait for them."""
