"""What the tests stand on: clusters, virtual machines, jobs, and programs that run inside."""
