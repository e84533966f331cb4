import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.common.TopicPartitionReplica;

/** BOOTSTRAP TOPIC PARTITION BROKER DIRECTORY [TOPIC ...]: moves replicas and prints what became of each. */
public class AlterReplicaLogDirs {
    public static void main(String[] arguments) throws Exception {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", arguments[0]);
        try (Admin admin = Admin.create(settings)) {
            for (int i = 1; i < arguments.length; i += 4) {
                TopicPartitionReplica replica = new TopicPartitionReplica(
                    arguments[i], Integer.parseInt(arguments[i + 1]), Integer.parseInt(arguments[i + 2]));
                String outcome = "NONE";
                try {
                    admin.alterReplicaLogDirs(Map.of(replica, arguments[i + 3])).all().get();
                } catch (ExecutionException error) {
                    outcome = error.getCause().getClass().getSimpleName();
                }
                System.out.println(replica + " " + outcome);
            }
        }
    }
}
