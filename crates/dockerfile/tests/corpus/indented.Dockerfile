  FROM base
	 RUN a
   ENV X=1
