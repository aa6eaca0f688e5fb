"""What the longer verbs of the command line do, one module each; ``cli`` parses for them and prints their documents."""
