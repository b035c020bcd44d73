"""What is made from the program and shipped beside it: manual pages and files for completion in shells."""
