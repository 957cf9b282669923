FROM maven:3-eclipse-temurin-21 AS build
COPY pom.xml /build/
COPY src /build/src/
WORKDIR /build/
RUN mvn -B package
FROM eclipse-temurin:21-jre
VOLUME ["/tmp", "/data"]
COPY --from=build /build/target/*.jar app.jar
ENV JAVA_OPTS=""
ENTRYPOINT exec java $JAVA_OPTS -jar /app.jar
