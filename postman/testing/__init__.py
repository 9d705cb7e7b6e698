"""What tests of Postman and of its plugins are made of: fakes, servers with faults, and a suite for each contract."""
