From base As One
RuN a
ENv A=b
